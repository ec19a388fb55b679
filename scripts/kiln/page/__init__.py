"""Build the release's index page ``dist/index.html``: one file that needs no other.

:func:`kiln.page.document.render` writes it. The modules turn ``dist`` into typed data, the
templates in ``templates/`` turn that into HTML. Everything on the page comes from the files beside
it, so the same ``dist`` always gives the same bytes. Neighbours may use ``document``, and
``contents`` for what is in a release.
"""
