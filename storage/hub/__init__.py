"""Buckets and dataset repositories of the Hugging Face Hub.

paths        what an `hf://` URL names, and where the endpoint has it
store        `BucketStore`, `DatasetStore`: read by plain HTTP ranges, written by huggingface_hub
client       what huggingface_hub raises, as errors of ours; loaded only by those who write
"""
