"""From a single image or model back to what it was made of, and forth to what was made of it; no JVM.

image follows one image through the tables, model one model through its versions, text says it to a person.
"""
