"""Scripts that run in processes of their own, each with the libraries of one runtime and nothing of ours; `process` starts them.

A script is called with a request (JSON) and an empty folder for its answers: answers.json, and arrays.npz.
"""
