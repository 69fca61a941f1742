"""One trial: trained and exported, and evaluated by code that does not trust the export."""
