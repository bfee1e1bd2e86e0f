"""The WSGI application, made in each of gunicorn's workers from what PID 1 passed down."""

from flask import Flask

from predictor import Predictor, create_app


def create_application(predictor: Predictor) -> Flask:
    return create_app(predictor)
