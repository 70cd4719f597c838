"""Teachers from elsewhere: read once, checked, and kept in one kind of file."""

from distill.models.teachers.reading import read_teacher
from distill.models.teachers.store import ReadTeacher, Teacher, load_teacher, save_teacher
from distill.models.teachers.teacher import TeacherModel

__all__ = ["ReadTeacher", "Teacher", "TeacherModel", "load_teacher", "read_teacher", "save_teacher"]
