"""Build the release's index page ``dist/index.html``: one self-contained file.

:func:`kiln.page.document.render` renders it. The modules turn ``dist`` into typed data, the
templates in ``templates/`` turn that into HTML. Everything on the page comes from the files beside
it, so the same ``dist`` always gives the same bytes. Other packages may use ``document``, and
``contents`` to read a release.
"""
