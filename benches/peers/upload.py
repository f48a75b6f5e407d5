# Sends files to a container: upload.py CONTAINER FILE...
import os.path
import sys
from concurrent.futures import ThreadPoolExecutor

from azure.storage.blob import ContainerClient

container = ContainerClient.from_container_url(sys.argv[1])


def send(path):
    with open(path, "rb") as file:
        container.upload_blob(os.path.basename(path), file, overwrite=True, max_concurrency=4)


with ThreadPoolExecutor(8) as pool:
    # Asking for the results raises what went wrong.
    list(pool.map(send, sys.argv[2:]))
