"""Routes in the shapes of other reward servers, so that trainers can be pointed here as they are. One file for each of them."""

from fastapi import APIRouter

from oprime_gateway.adapters import classify, openrlhf, sglang, slime, vllm


def routers() -> tuple[APIRouter, ...]:
    return openrlhf.router, vllm.router, classify.router, sglang.router, slime.router
