"""Data sets: built-in ones, folders of images, the user's own and copies from object storage, up to batches.

The way in is ``loading.load_dataset``.
"""
