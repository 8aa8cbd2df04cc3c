"""No process of a pool outlives a program that is killed."""

import multiprocessing
import os
import select
import signal
import time

import pytest
from test_rollout import SHARED, Counting, Remembering

from envs import rollout
from launch import workers

SECONDS = 30
"""After which a process that was left behind ends all the same."""


class Long(Counting):
    """Holds a pipe open while it lives, and takes its time."""

    def __init__(self, pipe):
        super().__init__(length=SECONDS * 100)
        self.pipe = hold(pipe)

    def step(self, action):
        time.sleep(0.01)
        return super().step(action)


class Making:
    """Makes such environments, in another process."""

    def __init__(self, pipe):
        self.pipe = pipe

    def __call__(self):
        return Long(self.pipe)


def hold(pipe):
    descriptor = os.open(pipe, os.O_WRONLY)
    os.write(descriptor, b".")
    return descriptor


def hold_and_wait(pipe):
    hold(pipe)
    time.sleep(SECONDS)


def read(pipe):
    assert select.select([pipe], [], [], SECONDS / 2)[0], "nobody wrote, or somebody is still there"
    return os.read(pipe, 1)


def play(pipe):
    chains = SHARED | {"chains": 2}
    rollout.play(Making(pipe), Remembering, processes=2, context=True, **chains)


def map_working(pipe):
    workers.count = lambda: 2
    with workers.mapping() as each:
        list(each(hold_and_wait, [pipe, pipe]))


def map_idle(pipe):
    workers.count = lambda: 2
    with workers.mapping() as each:
        list(each(hold, [pipe, pipe]))
        time.sleep(SECONDS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("program", [play, map_working, map_idle])
def test_no_process_outlives_a_program_that_is_killed(program, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    parent = multiprocessing.get_context("spawn").Process(target=program, args=(tmp_path / "pipe",))
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    parent.start()
    assert read(pipe) + read(pipe) == b".."
    os.kill(parent.pid, signal.SIGKILL)
    assert read(pipe) == b""  # nobody holds it open any more
    os.close(pipe)
    parent.join()
