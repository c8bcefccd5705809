"""Backbone, neck and heads, put together."""
