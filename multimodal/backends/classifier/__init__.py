"""Picture classifiers of transformers: one of the classes they know, and how likely it is."""
