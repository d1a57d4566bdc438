"""Muon: momentum with orthogonalised updates for weight matrices; Adam for all other parameters.

Jordan et al., 2024 (https://kellerjordan.github.io/posts/muon/); the update's scale follows
Moonlight (arXiv 2502.16982, section 2.2), so AdamW's learning rate and weight decay can be reused.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrices with singular values near 1, by Newton-Schulz iteration.

    Takes and returns float matrices (..., rows, columns); at most as many rows as columns is fastest.
    """
    a, b, c = _QUINTIC
    x: Tensor = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def orthogonal_each(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonal` of each float matrix (rows, columns), those of similar sizes in one batch.

    Zero rows and columns, which fill a matrix up to multiples of 32, do not change the result.
    """
    wide = [each.T if each.shape[0] > each.shape[1] else each for each in matrices]
    batches: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (rows, columns) in enumerate(each.shape for each in wide):
        batches[_filled(rows), _filled(columns)].append(index)
    for size, indices in batches.items():
        batch = wide[indices[0]].new_zeros(len(indices), *size)
        for whole, index in zip(batch, indices, strict=True):
            _corner(whole, wide[index]).copy_(wide[index])
        for whole, index in zip(orthogonal(batch), indices, strict=True):
            wide[index] = _corner(whole, wide[index])
    return [
        each if each.shape == matrix.shape else each.T for each, matrix in zip(wide, matrices, strict=True)
    ]


def _filled(size: int) -> int:
    return -(-size // 32) * 32


def _corner(whole: Tensor, part: Tensor) -> Tensor:
    """The part of a matrix that has the size of another."""
    return whole[: part.shape[0], : part.shape[1]]


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
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            matrices = [each for each in trained if each.ndim >= 2 and each.shape[1] > 1]
            others = [each for each in trained if each.ndim < 2 or each.shape[1] == 1]
            updates = self._momentum(matrices, group["momentum"]) + self._adam(others)
            if trained:
                torch._foreach_mul_(trained, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices + others, updates, alpha=-group["lr"])

    def _momentum(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        if not parameters:
            return []
        gradients, means = _gradients(parameters), self._states(parameters, "mean")
        torch._foreach_mul_(means, momentum)
        torch._foreach_add_(means, gradients)
        ahead = [each.flatten(1) for each in torch._foreach_add(gradients, means, alpha=momentum)]
        updates = [each.contiguous() for each in orthogonal_each(ahead)]
        torch._foreach_mul_(updates, [0.2 * max(each.shape) ** 0.5 for each in updates])
        return [each.reshape(p.shape) for each, p in zip(updates, parameters, strict=True)]

    def _adam(self, parameters: list[Tensor]) -> list[Tensor]:
        if not parameters:
            return []
        gradients = _gradients(parameters)
        means, squares = self._states(parameters, "mean"), self._states(parameters, "square")
        steps = []
        for parameter in parameters:
            state = self.state[parameter]
            state["step"] = state.get("step", 0) + 1
            steps.append(state["step"])
        torch._foreach_lerp_(means, gradients, 0.1)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 0.001)
        deviations = torch._foreach_sqrt(torch._foreach_div(squares, [1 - 0.999**step for step in steps]))
        torch._foreach_add_(deviations, 1e-8)
        return list(
            torch._foreach_div(torch._foreach_div(means, [1 - 0.9**step for step in steps]), deviations)
        )

    def _states(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
