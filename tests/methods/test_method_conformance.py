"""Every registered method passes the checks that ship with the package."""

from distill.methods import list_methods
from distill.testing import MethodConformance


class TestStudent(MethodConformance):
    method = "student"


class TestKD(MethodConformance):
    method = "kd"


class TestCWD(MethodConformance):
    method = "cwd"
    configs = ({}, {"where": "features", "tap": "stage4"})


class TestHeteroAKD(MethodConformance):
    method = "heteroakd"
    normalises_features = True
    configs = (
        {},
        {"preset": "stable", "tap": "stride8", "temperature": 2},
        {"kem_axis": "space", "tap": "fused"},
        {"mixing": False, "kem_axis": "none", "proj_supervision": "student"},
        {"proj_supervision": "none", "tap": "stage1"},
    )


class TestDIST(MethodConformance):
    method = "dist"


class TestSKD(MethodConformance):
    method = "skd"
    configs = ({}, {"pool": 1, "tap": "stage4", "kd_weight": 0})


class TestIFVD(MethodConformance):
    method = "ifvd"


class TestAT(MethodConformance):
    method = "at"


class TestFitNet(MethodConformance):
    method = "fitnet"
    configs = ({}, {"tap": "stride8"})


def test_every_registered_method_has_a_conformance_class():
    tested = {cls.method for cls in MethodConformance.__subclasses__()}
    assert set(list_methods()) <= tested
