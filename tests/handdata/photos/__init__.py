"""Tests of photographs as a source."""
