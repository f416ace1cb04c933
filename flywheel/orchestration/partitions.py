"""The experiment as a matrix: `size` x `variant`. One place makes and parses the keys of its cells."""

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.training.job import GRID_DIMENSIONS, SIZES

GRID_VARIANTS = tuple(str(Variant(base, dim)) for base, dims in GRID_DIMENSIONS.items() for dim in dims)

CELLS = dg.MultiPartitionsDefinition(
    {"size": dg.StaticPartitionsDefinition(list(SIZES)), "variant": dg.StaticPartitionsDefinition(list(GRID_VARIANTS))}
)


def cell_key(variant: Variant, size: str) -> dg.MultiPartitionKey:
    """The partition key of a cell, `100|all-MiniLM-L6-v2@256`. Raises FlywheelError for a cell outside the grid."""
    if not in_grid(variant, size):
        raise FlywheelError(
            f"{variant} at size {size} is no cell of the grid. Variants: {', '.join(GRID_VARIANTS)}; sizes: {', '.join(SIZES)}."
        )
    return dg.MultiPartitionKey({"size": size, "variant": str(variant)})


def in_grid(variant: Variant, size: str) -> bool:
    """Whether the UI's matrix has this cell."""
    return str(variant) in GRID_VARIANTS and size in SIZES


def parse_cell(context: dg.AssetExecutionContext) -> tuple[Variant, str]:
    """The variant and the size of a run's partition, which a run launched through the API may name by the joint key alone."""
    key = CELLS.get_partition_key_from_str(context.partition_key)
    return Variant.parse(key.keys_by_dimension["variant"]), key.keys_by_dimension["size"]
