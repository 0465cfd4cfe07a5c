"""The kinds of models: a module for each, which has what `interface.Backbone` lists."""
