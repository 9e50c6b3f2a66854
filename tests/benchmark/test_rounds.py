from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.benchmark import rounds
from pipeline.benchmark.measurements import Measurements, Plan
from pipeline.benchmark.rounds import Arm, Progress
from pipeline.errors import InputError, WorkerError
from tests.benchmark.simulated import World

if TYPE_CHECKING:
    from collections.abc import Mapping


def run_all(
    world: World, arms: list[Arm], plan: Plan, *, scenarios: tuple[str, ...] = ("one",), **more: Any
) -> dict[str, Measurements]:
    settings: dict[str, Any] = {"reference": "eager", "rng": random.Random(1), "progress": lambda _: None} | more
    return rounds.run(arms, scenarios=scenarios, plan=plan, clock=world.clock, **settings)


def run(world: World, arms: list[Arm], plan: Plan, **more: Any) -> Measurements:
    return run_all(world, arms, plan, **more)["one"]


def in_two_speeds(index: int) -> float:
    """Change every 15 calls, so that windows of 20 ms alternate between the two."""
    return 1.0 if index // 15 % 2 else 2.0


def test_every_round_holds_every_arm_once_and_the_reference_twice() -> None:
    world = World()
    measured = run(world, [world.arm("eager"), world.arm("onnx"), world.arm("script")], Plan(seconds=20))
    assert measured.control == "eager (A/A)"
    assert len(measured.launches) == 6
    for launch in measured.launches:
        assert len(launch.round_orders) >= 3
        for index, order in enumerate(launch.round_orders):
            assert sorted(order) == ["eager", "eager (A/A)", "onnx", "script"]
            assert all(arm.blocks[index].round == index for arm in launch.arms.values())


def test_orders_of_rounds_and_of_starts_differ() -> None:
    world = World()
    measured = run(world, [world.arm("eager"), world.arm("onnx"), world.arm("script")], Plan(seconds=20))
    orders = [order for launch in measured.launches for order in launch.round_orders]
    assert len(set(orders)) > 20
    firsts = [sum(order[0] == name for order in orders) / len(orders) for name in measured.arms]
    assert all(0.1 < share < 0.4 for share in firsts)
    assert len({launch.start_order for launch in measured.launches}) > 1


def test_the_same_seed_gives_the_same_measurements_and_another_seed_other_orders() -> None:
    def once(seed: int) -> Measurements:
        world = World()
        return run(world, [world.arm("eager"), world.arm("onnx")], Plan(seconds=5), rng=random.Random(seed))

    assert once(3) == once(3)
    assert once(3).launches[0].round_orders != once(4).launches[0].round_orders


def test_every_launch_starts_fresh_workers_and_ends_them() -> None:
    world = World()
    measured = run(world, [world.arm("eager"), world.arm("onnx")], Plan(seconds=20))
    assert world.alive == 0
    assert sorted(world.launched) == ["eager"] * 12 + ["onnx"] * 6
    assert {launch.arms["onnx"].facts.import_ms for launch in measured.launches} == {12.5}


@pytest.mark.parametrize("seconds", [10, 20, 60])
@pytest.mark.parametrize("start_s", [0.05, 0.5])
@pytest.mark.parametrize("call_ms", [0.01, 3.0, 90.0])
def test_the_budget_is_kept_within_a_tenth(seconds: float, start_s: float, call_ms: float) -> None:
    world = World()
    arms = [world.arm(name, call_ms=call_ms, start_s=start_s, stop_s=0.02) for name in ("eager", "onnx")]
    measured = run(world, arms, Plan(seconds=seconds))
    assert measured.elapsed_s == pytest.approx(seconds, rel=0.1)
    assert world.now_s - 100 == measured.elapsed_s


def test_launches_share_the_budget_evenly() -> None:
    world = World()
    measured = run(world, [world.arm("eager"), world.arm("onnx")], Plan(seconds=30))
    for launch in measured.launches:
        assert launch.start_s + launch.warm_up_s + launch.measure_s + launch.stop_s == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("start_s", [0.3, 1.5, 2.5])
def test_every_launch_measures_as_long_as_the_others_the_first_one_too(start_s: float) -> None:
    world = World()
    arms = [world.arm("eager", start_s=start_s), world.arm("onnx", start_s=start_s)]
    made = [len(launch.round_orders) for launch in run(world, arms, Plan(seconds=40)).launches]
    assert max(made) - min(made) <= 1


def test_launches_are_as_many_as_make_the_mean_most_certain() -> None:
    """Preparing one takes 4 s and a round 0.18 s: 3 × √0.72 = 2.5 s are worth measuring, so 40 s hold six, 26 s four."""
    for seconds, launches in ((40, 6), (26.5, 4)):
        world = World()
        arms = [world.arm("eager", start_s=1.9), world.arm("onnx", start_s=0.1)]
        assert len(run(world, arms, Plan(seconds=seconds, launches=9)).launches) == launches


def test_dear_launches_are_fewer_and_the_notes_say_so() -> None:
    world = World()
    arms = [world.arm("eager", start_s=1.5), world.arm("onnx", start_s=1)]
    measured = run(world, arms, Plan(seconds=20))
    assert 3 <= len(measured.launches) < 6
    assert measured.elapsed_s == pytest.approx(20, rel=0.1)
    (note,) = measured.notes
    assert note.startswith(f"{len(measured.launches)} of 6 launches: one takes 4.1 s to start, warm up and stop")


def test_a_budget_too_small_for_the_fewest_launches_is_overrun_and_the_notes_say_so() -> None:
    world = World()
    measured = run(world, [world.arm("eager", start_s=5), world.arm("onnx", start_s=5)], Plan(seconds=10))
    assert [len(launch.round_orders) for launch in measured.launches] == [1, 1, 1]
    assert len(measured.notes) == 2
    assert measured.notes[1].startswith(f"took {measured.elapsed_s:.1f} s of a budget of 10 s")


def test_nothing_is_noted_when_all_goes_to_plan() -> None:
    world = World()
    assert run(world, [world.arm("eager"), world.arm("onnx")], Plan(seconds=20)).notes == ()


@pytest.mark.parametrize(("call_ms", "calls"), [(0.5, 120), (7.0, 9), (300.0, 1), (0.001, 20_000)])
def test_blocks_last_about_60_ms_but_hold_at_least_one_call_and_at_most_the_cap(call_ms: float, calls: int) -> None:
    world = World()
    measured = run(world, [world.arm("eager"), world.arm("onnx", call_ms=call_ms)], Plan(seconds=20))
    blocks = [block for launch in measured.launches for block in launch.arms["onnx"].blocks]
    assert {block.calls for block in blocks} == {calls}
    assert {block.total_ns for block in blocks} == {round(call_ms * 1e6) * calls}
    assert {len(block.durations_ns) for block in blocks} == {min(calls, 200)}


def test_warm_up_ends_when_windows_agree() -> None:
    world = World()
    falling = world.arm("onnx", call_ms=lambda index: 10.0 if index < 5 else 1.0)
    measured = run(world, [world.arm("eager"), falling], Plan(seconds=20))
    for launch in measured.launches:
        warm_up = launch.arms["onnx"].warm_up
        assert warm_up is not None
        assert warm_up.settled
        # one call; 2 calls fill 20 ms at 10 ms; so do the next 2, which agree with the first two windows
        assert (warm_up.calls, warm_up.medians_ns) == (5, (10e6, 10e6, 10e6))


def test_warm_up_goes_on_while_windows_disagree() -> None:
    world = World()
    falling = world.arm("onnx", call_ms=lambda index: 4.0 if index < 1 else 2.0 if index < 6 else 1.0)
    measured = run(world, [world.arm("eager"), falling], Plan(seconds=20))
    warm_up = measured.launches[0].arms["onnx"].warm_up
    assert warm_up is not None
    assert warm_up.settled
    assert warm_up.medians_ns == (4e6, 2e6, 1e6, 1e6, 1e6)


def test_a_worker_that_never_settles_is_measured_and_said_not_to_have_settled() -> None:
    world = World()
    measured = run(world, [world.arm("eager"), world.arm("onnx", call_ms=in_two_speeds)], Plan(seconds=20))
    for launch in measured.launches:
        warm_up = launch.arms["onnx"].warm_up
        assert warm_up is not None
        assert not warm_up.settled
        assert len(launch.arms["onnx"].blocks) >= 3
        assert launch.arms["eager"].warm_up == rounds.WarmUp(settled=True, calls=41, medians_ns=(1e6, 1e6, 1e6))


def test_warm_ups_that_never_settle_leave_two_thirds_of_the_budget_to_the_fewest_launches() -> None:
    world = World()
    arms = [world.arm(name, call_ms=in_two_speeds, start_s=0) for name in ("eager", "onnx", "script")]
    measured = run(world, arms, Plan(seconds=6, launches=3))
    assert sum(launch.warm_up_s for launch in measured.launches) == pytest.approx(2, rel=0.5)
    assert measured.elapsed_s == pytest.approx(6, rel=0.1)


@pytest.mark.parametrize("lives_for", [0, 1, 5])
def test_an_arm_that_dies_drops_out_with_its_reason_and_the_others_go_on(lives_for: int) -> None:
    world = World()
    measured = run(
        world, [world.arm("eager"), world.arm("bad", lives_for=lives_for), world.arm("onnx")], Plan(seconds=20)
    )
    assert measured.failures == {"bad": "bad was ended by SIGSEGV"}
    assert world.launched.count("bad") == 1
    assert len(measured.launches) == 6
    assert len(measured.launches[0].arms["bad"].blocks) == max(0, lives_for - 3)
    for launch in measured.launches:
        assert len(launch.arms["onnx"].blocks) == len(launch.round_orders)
    assert world.alive == 0


def test_an_arm_that_cannot_start_drops_out_with_its_reason() -> None:
    def launch() -> Any:
        raise WorkerError("onnx exited with status 1 during 'open'")

    world = World()
    measured = run(world, [world.arm("eager"), Arm("onnx", launch)], Plan(seconds=20))
    assert measured.failures == {"onnx": "onnx exited with status 1 during 'open'"}
    assert all(set(launch.arms) == {"eager", "eager (A/A)"} for launch in measured.launches)


def test_a_reference_that_dies_ends_the_run() -> None:
    world = World()
    with pytest.raises(WorkerError, match="eager was ended by SIGSEGV"):
        run(world, [world.arm("eager", lives_for=8), world.arm("onnx")], Plan(seconds=20))


def test_a_worker_that_answers_too_few_durations_drops_out() -> None:
    world = World()
    arm = world.arm("onnx", call_ms=0.0)
    measured = run(world, [world.arm("eager"), arm], Plan(seconds=20))
    assert measured.failures["onnx"] == "a backend that was to time 1 calls gave 1 durations, the shortest of 0 ns"


def test_scenarios_share_launches_and_the_budget() -> None:
    world = World()
    found = run_all(world, [world.arm("eager"), world.arm("onnx")], Plan(seconds=20), scenarios=("small", "large"))
    assert list(found) == ["small", "large"]
    assert world.launched.count("onnx") == 6
    assert found["small"].elapsed_s == pytest.approx(20, rel=0.1)
    for small, large in zip(found["small"].launches, found["large"].launches, strict=True):
        assert len(small.round_orders) == len(large.round_orders) >= 3
        assert small.round_orders != large.round_orders
    made = [scenario for name, scenario, _ in world.blocks if name == "onnx"]
    assert made.count("small") == made.count("large")


def test_what_else_is_measured_gets_the_last_launchs_workers_and_what_is_left_of_the_budget() -> None:
    world, got = World(), list[tuple[list[str], float, int]]()

    def finale(workers: Mapping[str, Any], seconds: float) -> None:
        got.append((sorted(workers), seconds, world.alive))
        world.pass_s(seconds)

    plan = Plan(seconds=20, reserve_s=2)
    measured = run(world, [world.arm("eager"), world.arm("onnx", stop_s=0.02)], plan, finale=finale)
    ((names, seconds, alive),) = got
    assert names == ["eager", "eager (A/A)", "onnx"]
    assert alive == 3
    assert seconds == pytest.approx(3, abs=0.5)
    assert measured.elapsed_s == pytest.approx(20, rel=0.1)


def test_calls_that_fill_a_block_warm_up_in_two_that_agree() -> None:
    world = World()
    slow = world.arm("onnx", call_ms=lambda index: 200.0 if index == 0 else 90.0)
    measured = run(world, [world.arm("eager"), slow], Plan(seconds=20))
    warm_up = measured.launches[0].arms["onnx"].warm_up
    assert warm_up is not None
    assert (warm_up.settled, warm_up.medians_ns) == (True, (200e6, 90e6, 90e6))


def test_a_block_that_ended_early_counts_the_calls_it_made() -> None:
    world = World()
    measured = run(world, [world.arm("eager"), world.arm("onnx", longest=7)], Plan(seconds=20))
    blocks = [block for launch in measured.launches for block in launch.arms["onnx"].blocks]
    assert {(block.calls, block.total_ns) for block in blocks} == {(7, 7_000_000)}


def test_progress_says_where_the_run_stands() -> None:
    world, told = World(), list[Progress]()
    measured = run(world, [world.arm("eager"), world.arm("onnx")], Plan(seconds=20), progress=told.append)
    assert [each.launch for each in told if each.phase == "starting"] == [1, 2, 3, 4, 5, 6]
    assert sum(each.phase == "measuring" for each in told) == sum(len(each.round_orders) for each in measured.launches)
    assert told[-1].phase == "done"
    assert told[-1].elapsed_s == measured.elapsed_s
    assert [each.elapsed_s for each in told] == sorted(each.elapsed_s for each in told)


def test_the_reference_must_be_among_the_arms() -> None:
    world = World()
    with pytest.raises(InputError, match=r"benchmark\.reference is 'eager', and the backends to time are onnx, script"):
        run(world, [world.arm("onnx"), world.arm("script")], Plan(seconds=20))


@pytest.mark.parametrize("name", ["eager", "eager (A/A)"])
def test_two_arms_of_one_name_are_refused(name: str) -> None:
    world = World()
    with pytest.raises(InputError, match="two backends to time are called"):
        run(world, [world.arm("eager"), world.arm(name)], Plan(seconds=20))
