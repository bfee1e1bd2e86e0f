"""The model server: a task's way from S3 through an unchanged program back to S3, one module a station."""

VERSION = "0.1.0"
