"""Pretrained teachers from other libraries: read, checked against the data set, and saved in one file format."""

from distill.models.teachers.probe import representative_sizes
from distill.models.teachers.reading import read_teacher
from distill.models.teachers.store import ReadTeacher, TeacherNetwork, load_teacher, save_teacher
from distill.models.teachers.teacher import TeacherModel

__all__ = [
    "ReadTeacher",
    "TeacherModel",
    "TeacherNetwork",
    "load_teacher",
    "read_teacher",
    "representative_sizes",
    "save_teacher",
]
