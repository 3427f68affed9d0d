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
    ],
)
def test_layouts(nodes: int, per_node: int, tensor: Size, pipeline: Size, layout: Layout) -> None:
    assert resolve_layout(nodes, per_node, tensor, pipeline) == layout


@pytest.mark.parametrize(
    ("tensor", "pipeline", "message"),
    [
        (
            16,
            "auto",
            "tensor_parallel 16 is more than the 8 accelerators of one node, and tensor parallel must not span nodes",
        ),
        (
            "auto",
            1,
            "pipeline_parallel 1 is not a multiple of 2, the number of nodes: "
            "each node must hold the same number of whole stages",
        ),
        (8, 4, "tensor_parallel 8 × pipeline_parallel 4 needs 16 accelerators on each node, and there are 8"),
        ("auto", 18, "tensor_parallel 8 × pipeline_parallel 18 needs 72 accelerators on each node, and there are 8"),
    ],
)
def test_what_does_not_fit(tensor: Size, pipeline: Size, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        resolve_layout(2, 8, tensor, pipeline)
    assert str(caught.value) == f"{message}; {CHOICES}"


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
    assert layout.gpus_per_node % layout.tensor_parallel == 0
    assert layout.gpus_per_node <= per_node


@given(st.integers(1, 9), st.integers(1, 16), st.integers(1, 16))
def test_auto_stages_fit_any_tensor_parallel_that_a_node_can_hold(nodes: int, per_node: int, tensor: int) -> None:
    if tensor <= per_node:
        assert resolve_layout(nodes, per_node, tensor, "auto").gpus_per_node > per_node - tensor
