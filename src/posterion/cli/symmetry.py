"""``posterion symmetry``: the rotations of a point group."""

from typing import Annotated

import typer

from posterion.physics.symmetry import describe_operators

__all__ = ["symmetry"]


def symmetry(
    point_group: Annotated[str, typer.Argument(help="C1, C2, ..., D1, D2, ..., T, O, I, I1 to I4.")],
) -> None:
    """Print the rotations of a point group, on the axes that all commands assume.

    They are RELION's axes; a bare I is I2. A map must be the same after each of these rotations about its
    origin, else its axes are other ones.
    """
    print(describe_operators(point_group))
