"""A teacher's outputs from disk are the computed ones to the bit, of the right batch, and never slower for long."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill.data.stream import HostBatch
from distill.models import Output
from distill.models.output import MAP_NAMES, MapName, OutputMaps
from distill.teacher_output_cache import PROBES, TeacherOutputCache
from distill.testing import maps_of

CPU = torch.device("cpu")
ALL = frozenset(MAP_NAMES)


def batch(seed: int = 0) -> HostBatch:
    images = torch.randint(
        0, 256, (2, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return HostBatch(images.permute(0, 3, 1, 2), torch.zeros(2, 8, 8, dtype=torch.uint8), torch.arange(2), 0)


def answer(host: HostBatch) -> Output:
    """What a teacher might say: maps of several types and layouts."""
    images = host.images_b3hw.float()
    first = images.contiguous(memory_format=torch.channels_last)
    return Output(
        (first, images.bfloat16(), images.half(), images[:, :, ::2, ::2].contiguous()), images + 1, images + 2
    )


class Teacher:
    """Counts how often it is asked; takes its time."""

    def __init__(
        self,
        folder: Path,
        megabytes: float = 10,
        name: str = "teacher",
        precision: str = "fp32",
        layout: str = "contiguous",
    ) -> None:
        self.asked = 0
        self.kept = TeacherOutputCache(
            folder, int(megabytes * 1e6), teacher=name, precision=precision, layout=layout, device=CPU
        )

    def __call__(self, host: HostBatch, needs: frozenset[MapName] = ALL, seconds: float = 0.02) -> Output:
        def compute() -> OutputMaps:
            self.asked += 1
            time.sleep(seconds)
            return answer(host).maps(needs)

        return Output.from_maps(self.kept.maps(host, host.images_b3hw.float(), needs, compute))


def ask(teacher: Teacher, *hosts: HostBatch, **how: object) -> Teacher:
    """Asks about each batch, and waits until all is written."""
    for host in hosts:
        teacher(host, **how)  # type: ignore[arg-type]
    teacher.kept.close()
    return teacher


def test_what_is_read_is_what_was_computed_in_bits_types_and_layout(tmp_path: Path) -> None:
    ask(Teacher(tmp_path), batch())
    again = Teacher(tmp_path)
    for found, expected in zip(maps_of(again(batch())), maps_of(answer(batch())), strict=True):
        assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
        assert torch.equal(found, expected)
    assert again.asked == 0
    assert again.kept.saved_seconds != 0  # how much depends on the machine


@pytest.mark.parametrize(
    "other",
    [
        lambda folder: ask(Teacher(folder), batch(1)),
        lambda folder: ask(Teacher(folder, name="another"), batch()),
        lambda folder: ask(Teacher(folder, precision="bf16"), batch()),
        lambda folder: ask(Teacher(folder, layout="channels last"), batch()),
    ],
    ids=["pictures", "teacher", "precision", "layout"],
)
def test_nothing_is_read_for_other_pictures_another_teacher_precision_or_layout(
    tmp_path: Path, other: Callable[[Path], Teacher]
) -> None:
    ask(Teacher(tmp_path), batch())
    assert other(tmp_path).asked == 1


def test_only_what_is_needed_is_kept_and_what_is_missing_is_computed(tmp_path: Path) -> None:
    ask(Teacher(tmp_path), batch(), needs=frozenset({"logits"}))
    again = Teacher(tmp_path)
    found = again(batch(), frozenset({"logits"}))
    assert torch.equal(found.logits, answer(batch()).logits)
    assert not found.fused.numel()
    assert again.asked == 0
    assert again(batch(), ALL).fused.numel()
    assert again.asked == 1


def test_a_damaged_entry_is_computed_and_written_anew(tmp_path: Path) -> None:
    ask(Teacher(tmp_path), batch())
    for path in tmp_path.rglob("*.outputs"):
        path.write_bytes(path.read_bytes()[:50])
    assert ask(Teacher(tmp_path), batch()).asked == 1
    assert ask(Teacher(tmp_path), batch()).asked == 0


def test_a_full_folder_gives_up_what_others_left_and_nothing_of_its_own(tmp_path: Path) -> None:
    ask(Teacher(tmp_path), batch(0))
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.outputs"))
    for path in tmp_path.rglob("*.outputs"):
        os.utime(path, (0, 0))
    megabytes = 2.5 * size / 1e6
    ask(Teacher(tmp_path, megabytes), batch(1), batch(2), batch(3))
    later = Teacher(tmp_path, megabytes)
    for number in (1, 2):
        later(batch(number))
    assert later.asked == 0
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.outputs")) <= megabytes * 1e6
    assert ask(later, batch(0), batch(3)).asked == 2


def test_reading_is_left_off_where_computing_is_quicker(tmp_path: Path) -> None:
    hosts = [batch(number) for number in range(PROBES + 2)]
    for host in hosts:
        ask(Teacher(tmp_path), host, seconds=0.0)
    again = ask(Teacher(tmp_path), *hosts, seconds=0.0)
    assert again.kept.off
    assert again.asked == 2
