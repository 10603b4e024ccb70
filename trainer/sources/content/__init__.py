"""Items whose texts and categories are like those of the items chosen last."""
