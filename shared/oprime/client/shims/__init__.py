"""Rewards for other trainers, in the shapes that they take; docs/integrations.md has five lines for each. None of them is imported here."""
