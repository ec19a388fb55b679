"""The release's page ``dist/index.html``: one file that shows what is in ``dist`` and how good.

:func:`kiln.page.document.render` makes it; the other modules read ``dist``, compare detections,
draw them and fill in the snippets. What a page says is taken from the files beside it and from
nothing else, so that the same ``dist`` always gives the same bytes.
"""
