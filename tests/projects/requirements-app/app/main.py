from fastapi import FastAPI

from common.greeting import GREETING

app = FastAPI()


@app.get("/health")
def health() -> str:
    return GREETING
