"""The place that all processes of a build share: a folder, or objects below a URL with a copy on each machine.

The stages read and write files of the folder `Store.folder`. A folder is the store itself, so `bring` and `put` do
nothing there. Below a URL they copy whole files, and a put is the moment at which a file appears to other machines.
"""
