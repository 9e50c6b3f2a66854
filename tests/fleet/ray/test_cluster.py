"""What a build asks of a node comes from its plan, and what no cluster can give is said with the fix."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import InputError, UnavailableError
from pipeline.fleet.ray import cluster
from pipeline.run.plan import AT_ONCE, Settings, plan, worker_bytes

ROOT = Path(__file__).parents[3]
PLAN = plan(ROOT / "configs/simplenet.yaml", Settings(out=Path("artifacts")))


def node(memory=64e9, **more):
    return cluster.Node("a", "10.0.0.5", {"CPU": 8.0, "memory": memory, cluster.NODE: 1.0, **more})


def on_a_gpu():
    first = replace(PLAN.variants[0], name="ort-gpu", backend="onnxruntime-cuda", required=True)
    return replace(PLAN, variants=(first, *PLAN.variants[1:]))


def test_memory_is_our_own_estimate_for_as_many_processes_as_the_largest_node_has_room_for():
    one = worker_bytes(PLAN)
    assert cluster.needs(PLAN, [node()], None, benchmark=True).memory_bytes == AT_ONCE * one
    assert cluster.needs(PLAN, [node(1.5 * one), node(2.5 * one)], None, benchmark=True).memory_bytes == 2 * one
    with pytest.raises(UnavailableError, match=r"simplenet needs 0\.5 GB of memory, and the largest node has 0\.4 GB"):
        cluster.needs(PLAN, [node(4e8)], None, benchmark=True)


def test_a_gpu_is_asked_for_where_a_required_backend_runs_on_one_and_only_there():
    assert cluster.needs(PLAN, [node()], None, benchmark=False).gpus == 0
    assert cluster.needs(on_a_gpu(), [node(), node(GPU=2.0)], None, benchmark=False).gpus == 1
    with pytest.raises(UnavailableError, match="ort-gpu runs on a GPU, and no node has one"):
        cluster.needs(on_a_gpu(), [node()], None, benchmark=False)


def test_the_memory_of_nodes_without_the_gpu_does_not_count():
    one = worker_bytes(PLAN)
    there = [node(64e9), node(1.5 * one, GPU=1.0)]
    assert cluster.needs(on_a_gpu(), there, None, benchmark=False).memory_bytes == one


def test_so_many_at_once_on_a_node_are_so_many_shares_of_it():
    found = cluster.needs(PLAN, [node()], 4, benchmark=True)
    assert (found.share, found.cpus) == (0.25, 2.0)
    assert cluster.needs(PLAN, [node(CPU=2.0)], 2, benchmark=True).cpus == 1.0
    assert cluster.needs(PLAN, [node(CPU=1.0)], None, benchmark=True).cpus == 1.0


def test_nothing_is_timed_on_a_cluster_whose_nodes_do_not_state_that_they_are_one():
    bare = replace(node(), resources={"CPU": 8.0, "memory": 64e9})
    assert cluster.needs(PLAN, [bare], None, benchmark=False).share is None
    with pytest.raises(UnavailableError, match="no node states weighbridge_node") as caught:
        cluster.needs(PLAN, [bare], None, benchmark=True)
    assert "--resources='{\"weighbridge_node\": 1}'" in caught.value.hint
    assert "--no-benchmark" in caught.value.hint


def test_a_build_fits_a_node_that_has_all_it_needs_when_it_does_nothing_else():
    needs = cluster.needs(PLAN, [node()], None, benchmark=True)
    assert needs.fits(node())
    assert not needs.fits(node(memory=1e6))
    assert not needs.fits(replace(node(), resources={"CPU": 8.0, "memory": 64e9}))


@pytest.mark.parametrize("on", ["slurm", "rays", "ray://", "dask://host:1", "Ray"])
def test_an_engine_that_is_not_known_is_refused(on):
    with pytest.raises(InputError, match="there is no engine of that name"):
        cluster.address_of(on)


def test_the_cluster_is_the_named_one_else_that_of_the_environment_else_one_is_started_here(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert (cluster.address_of("ray"), cluster.address_of("ray://10.0.0.5:6379")) == (None, "10.0.0.5:6379")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    assert cluster.address_of("ray") == "10.0.0.9:6379"


def test_the_port_of_rays_client_is_refused_with_what_to_do():
    with pytest.raises(InputError, match="port 10001") as caught:
        cluster.address_of("ray://host:10001")
    assert "ray job submit" in caught.value.hint


def test_ray_is_asked_for_by_its_extra_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(UnavailableError, match="needs Ray") as caught:
        cluster.require_engine("ray")
    assert caught.value.hint == "pip install 'weighbridge[ray]'"


def test_an_address_where_nothing_listens_is_said_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"there is no cluster at 127.0.0.1:{port}") as caught:
            cluster._require_listening(f"127.0.0.1:{port}")
    assert f"ray start --head --port {port}" in caught.value.hint
    with pytest.raises(InputError, match="not of the form HOST:PORT"):
        cluster._require_listening("somewhere")


def test_ray_is_not_imported_by_what_is_asked_without_it():
    assert "ray" not in sys.modules
