"""The HTTP side of the worker: JSON in, JSON out, and the only folder that imports fastapi, starlette and uvicorn."""
