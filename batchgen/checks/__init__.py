"""What a manifest means, checked by a walk of its matrix.

Above `matrix`, whose walker it uses, as `matrix` is above the values of `manifest`: so none of the three imports back.
`batchgen.app.load` reads a manifest and then calls these checks.
"""
