"""Tensor × pipeline parallel over nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.inventory.layout import Layout, Size, resolve_layout

CHOICES = "tensor_parallel × pipeline_parallel can be 8 × 2, 4 × 4, 2 × 8 or 1 × 16"


@pytest.mark.parametrize(
    ("nodes", "per_node", "tensor", "pipeline", "layout"),
    [
        (2, 8, "auto", "auto", Layout(8, 2, 8)),
        (1, 8, "auto", "auto", Layout(8, 1, 8)),
        (4, 1, "auto", "auto", Layout(1, 4, 1)),
        (2, 8, 4, "auto", Layout(4, 4, 8)),
        (2, 8, 3, "auto", Layout(3, 4, 6)),
        (2, 8, "auto", 4, Layout(4, 4, 8)),
        (2, 8, "auto", 6, Layout(2, 6, 6)),
        (2, 8, 4, 2, Layout(4, 2, 4)),
        (2, 8, 1, 16, Layout(1, 16, 8)),
        (2, 1, 2, "auto", Layout(2, 1, 1)),
        (2, 8, 16, "auto", Layout(16, 1, 8)),
        (2, 8, 8, 1, Layout(8, 1, 4)),
        (4, 8, 16, "auto", Layout(16, 2, 8)),
    ],
)
def test_layouts(nodes: int, per_node: int, tensor: Size, pipeline: Size, layout: Layout) -> None:
    assert resolve_layout(nodes, per_node, tensor, pipeline) == layout


@pytest.mark.parametrize(
    ("tensor", "pipeline", "message"),
    [
        (
            32,
            "auto",
            "tensor_parallel 32 is more than the 16 accelerators of 2 nodes",
        ),
        (
            "auto",
            1,
            "pipeline_parallel 1 is not a multiple of 2, the number of nodes: "
            "each node must hold the same number of whole stages",
        ),
        (
            9,
            1,
            "tensor_parallel 9 × pipeline_parallel 1 does not lie evenly on 2 nodes: "
            "each must hold the same number of whole stages, or the same part of one",
        ),
        (8, 4, "tensor_parallel 8 × pipeline_parallel 4 needs 16 accelerators on each node, and there are 8"),
        ("auto", 18, "tensor_parallel 8 × pipeline_parallel 18 needs 72 accelerators on each node, and there are 8"),
    ],
)
def test_what_does_not_fit(tensor: Size, pipeline: Size, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        resolve_layout(2, 8, tensor, pipeline)
    assert str(caught.value) == f"{message}; {CHOICES}"


@pytest.mark.parametrize(
    ("asked", "layout"),
    [
        ((1, 8, 8, "auto", "auto"), Layout(1, 1, 8, 8)),
        ((1, 8, 4, "auto", "auto"), Layout(2, 1, 8, 4)),
        ((1, 8, 4, 1, "auto"), Layout(1, 2, 8, 4)),
        ((1, 8, 4, 1, 1), Layout(1, 1, 4, 4)),
        ((2, 1, 2, "auto", "auto"), Layout(1, 1, 1, 2)),
        ((2, 4, 4, "auto", "auto"), Layout(2, 1, 4, 4)),
        ((2, 3, 2, "auto", "auto"), Layout(3, 1, 3, 2)),
    ],
)
def test_layouts_of_several_engines(asked: tuple[int, int, int, Size, Size], layout: Layout) -> None:
    nodes, per_node, engines, tensor, pipeline = asked
    assert resolve_layout(nodes, per_node, tensor, pipeline, engines) == layout


@pytest.mark.parametrize(
    ("nodes", "per_node", "engines", "tensor", "message"),
    [
        (1, 8, 3, "auto", "data_parallel 3 does not divide 8 accelerators; data_parallel can be 1, 2, 4 or 8"),
        (2, 4, 6, "auto", "data_parallel 6 does not divide 8 accelerators; data_parallel can be 1, 2, 4 or 8"),
        (
            2,
            4,
            3,
            "auto",
            "data_parallel 3 is not a multiple of 2, the number of nodes: each node must hold the same number of whole "
            "engines; data_parallel can be 1, 2 or 4",
        ),
        (
            1,
            8,
            4,
            4,
            "tensor_parallel 4 is more than the 2 accelerators of one engine; "
            "tensor_parallel × pipeline_parallel can be 2 × 1 or 1 × 2",
        ),
    ],
)
def test_engines_that_do_not_fit(nodes: int, per_node: int, engines: int, tensor: Size, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        resolve_layout(nodes, per_node, tensor, "auto", engines)
    assert str(caught.value) == message


SIZES = st.one_of(st.just("auto"), st.integers(1, 40))


@given(st.integers(1, 9), st.integers(1, 16), SIZES, SIZES)
def test_a_layout_keeps_what_was_asked_and_fits(nodes: int, per_node: int, tensor: Size, pipeline: Size) -> None:
    try:
        layout = resolve_layout(nodes, per_node, tensor, pipeline)
    except ValueError:
        assert (tensor, pipeline) != ("auto", "auto")
        return
    assert tensor in ("auto", layout.tensor_parallel)
    assert pipeline in ("auto", layout.pipeline_parallel)
    assert layout.tensor_parallel * layout.pipeline_parallel == layout.gpus_per_node * nodes
    whole_stages = layout.gpus_per_node % layout.tensor_parallel == 0
    assert whole_stages or layout.tensor_parallel % layout.gpus_per_node == 0, "or a stage on whole nodes"
    assert whole_stages or tensor != "auto", "auto never spans nodes"
    assert layout.gpus_per_node <= per_node


@given(st.integers(1, 9), st.integers(1, 16), st.integers(1, 16))
def test_auto_stages_fit_any_tensor_parallel_that_a_node_can_hold(nodes: int, per_node: int, tensor: int) -> None:
    if tensor <= per_node:
        assert resolve_layout(nodes, per_node, tensor, "auto").gpus_per_node > per_node - tensor
