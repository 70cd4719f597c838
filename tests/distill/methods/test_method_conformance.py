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
        {"preset": "literal", "tap": "stage4"},
        {"preset": "stable", "tap": "stride8", "temperature": 2},
        {"preset": "pixel", "tap": "fused", "hakd_temperature": 2},
        {"preset": "bernoulli", "proj_gradient": "projector"},
        {"preset": "summary"},
        {"hakd_weight": 0, "keep_proj": True},
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


class TestCIRKD(MethodConformance):
    method = "cirkd"
    configs = ({}, {"pool": 2, "tap": "stage4"})


class TestCIRKDMemory(MethodConformance):
    method = "cirkd"
    normalises_features = True
    configs = (
        {
            "pixel_weight": 0.1,
            "region_weight": 0.1,
            "pool": 2,
            "pixel_queue": 40,
            "region_queue": 5,
            "pixel_draws": 60,
            "region_draws": 30,
        },
    )


class TestOFA(MethodConformance):
    method = "ofa"
    normalises_features = True


class TestMGD(MethodConformance):
    method = "mgd"


class TestAfDCD(MethodConformance):
    method = "af_dcd"
    configs = ({}, {"mgd_weight": 0, "pool": 1, "patch": 2, "groups": 8})


class TestBPKD(MethodConformance):
    method = "bpkd"


class TestCombined(MethodConformance):
    method = "kd+cwd+fitnet"
    configs = ({}, {"cwd.temperature": 2, "fitnet.kd_weight": 0.5, "kd.kd_weight": 3})


def test_every_registered_method_has_a_conformance_class():
    tested = {cls.method for cls in MethodConformance.__subclasses__()}
    assert set(list_methods()) <= tested
