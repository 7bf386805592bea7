"""Links that carry a recipe: compact JSON, in the letters that a URL leaves alone."""

from __future__ import annotations

import base64
import binascii
import json

from composer.adapters.recipe import Recipe, read_recipe
from composer.core.errors import ComposerError

PARAMETER = "recipe"
# Beside it where the page of another base made the link, and nobody shared it.
CARRIED = "carried"
# Longer addresses are cut by some servers and messengers.
LONGEST = 8000
BROKEN = "The link is damaged or cut short; ask for it again. The page opens as usual."


def encode(recipe: Recipe) -> str:
    """The recipe as a link's parameter. Raises ComposerError for one that no link can carry."""
    text = json.dumps(recipe.as_dict(), ensure_ascii=False, separators=(",", ":"))
    encoded = base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")
    if len(encoded) > LONGEST:
        raise ComposerError("This is too long for a link; save the recipe as a file instead.")
    return encoded


def decode(encoded: object) -> Recipe:
    """The recipe of a link's parameter. Raises ComposerError with one sentence for anything else."""
    if not isinstance(encoded, str) or not 0 < len(encoded) <= LONGEST:
        raise ComposerError(BROKEN)
    try:
        text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True).decode()
        document = json.loads(text)
    except (binascii.Error, ValueError, RecursionError) as fault:
        raise ComposerError(BROKEN) from fault
    return read_recipe(document)
