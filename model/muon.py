"""Muon: momentum with orthogonalised updates for weight matrices; Adam for all other parameters.

Jordan et al., 2024 (https://kellerjordan.github.io/posts/muon/); the update's scale follows
Moonlight (arXiv 2502.16982, section 2.2), so AdamW's learning rate and weight decay can be reused.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrix with singular values near 1, by Newton-Schulz iteration.

    Takes and returns a float matrix (rows, columns).
    """
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Weights of linear and dense convolution layers are matrices, flattened to (outputs, rest).

    Depthwise kernels, norms and biases are updated by Adam.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; closures are not supported."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                state = self.state[parameter]
                matrix = parameter.ndim >= 2 and parameter.shape[1] > 1
                update = self._momentum(parameter, state, group) if matrix else self._adam(parameter, state)
                parameter.add_(update, alpha=-group["lr"])

    def _momentum(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        state["mean"].mul_(group["momentum"]).add_(parameter.grad)
        flat = parameter.grad.add(state["mean"], alpha=group["momentum"]).flatten(1)
        scale = 0.2 * max(flat.shape) ** 0.5
        update: Tensor = scale * orthogonal(flat).reshape(parameter.shape)
        return update

    def _adam(self, parameter: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        assert parameter.grad is not None
        state["step"] += 1
        state["mean"].lerp_(parameter.grad, 0.1)
        state["square"].lerp_(parameter.grad.square(), 0.001)
        mean = state["mean"] / (1 - 0.9 ** state["step"])
        update: Tensor = mean / ((state["square"] / (1 - 0.999 ** state["step"])).sqrt() + 1e-8)
        return update
