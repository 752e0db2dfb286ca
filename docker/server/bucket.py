"""Make the artifact store's bucket, unless it is there; waits two minutes for the store to answer."""

import os
import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

bucket = os.environ["BUCKET"]
store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
deadline = time.monotonic() + 120
while True:
    try:
        if bucket not in [found["Name"] for found in store.list_buckets()["Buckets"]]:
            store.create_bucket(Bucket=bucket)
        break
    except (BotoCoreError, ClientError) as error:
        if time.monotonic() > deadline:
            sys.exit(f"bucket {bucket}: {error}")
        time.sleep(2)
print(f"bucket {bucket} is there")
