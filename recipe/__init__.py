"""The recipe in miniature (docs/recipe.md)."""
