"""What an object store's error means, in words of ours: the libraries' own may hold a key."""

import errno
import os
import socket

_BY_CODE = {
    # S3's error codes (docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
    "NoSuchBucket": ("there is no such bucket", "Make it, or correct checkpoint.upload_to."),
    "AccessDenied": (
        "permission denied",
        "Allow to list, read, write and delete there (s3:ListBucket, s3:GetObject, s3:PutObject, "
        "s3:DeleteObject).",
    ),
    "RequestTimeTooSkewed": (
        "this machine's clock is too far off the store's",
        "Have it kept by NTP.",
    ),
    "InvalidAccessKeyId": (
        "the access key is unknown to it",
        "Correct the credentials in the environment or the SDK's own files.",
    ),
    "SignatureDoesNotMatch": (
        "the secret key does not belong to the access key",
        "Correct the credentials in the environment or the SDK's own files.",
    ),
    "ExpiredToken": ("the credentials have expired", "Renew them, and start the upload again."),
    "InvalidToken": ("the session token is not valid", "Renew the credentials."),
    "PermanentRedirect": ("the bucket is in another region", "Set AWS_REGION to the bucket's."),
    "AuthorizationHeaderMalformed": (
        "the bucket is in another region",
        "Set AWS_REGION to the bucket's.",
    ),
    "SlowDown": ("it asks to slow down", ""),
    "ServiceUnavailable": ("it does not serve now", ""),
}

_BY_NAME = {
    # Of botocore, aiohttp, gcsfs and azure-core.
    "NoCredentialsError": "there are no credentials here",
    "PartialCredentialsError": "the credentials here are not whole",
    "CredentialRetrievalError": "the credentials could not be fetched",
    "TokenRetrievalError": "the credentials could not be fetched",
    "ProfileNotFound": "AWS_PROFILE names no profile here",
    "DefaultCredentialsError": "there are no credentials here",
    "ClientAuthenticationError": "the credentials are not accepted",
}

_UNREACHABLE = {
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "ConnectionError",
    "HTTPClientError",
    "ProxyConnectionError",
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "ServerDisconnectedError",
    "ServiceRequestError",
    "FSTimeoutError",
    "IncompleteReadError",
    "ClientPayloadError",
}

ALTERED = "it does not have the checksum that it was sent with"
CREDENTIALS = "Give credentials by the environment or the SDK's own files (docs/object-store.md)."
NETWORK = "See to the network between, to a proxy, and to the endpoint (AWS_ENDPOINT_URL)."


def told(error: BaseException) -> tuple[str, str] | None:
    """Why, and what to do; None for what is no word of a store's, but an error of ours."""
    chain = list(_chain(error))
    for cause in chain:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            code = str(response.get("Error", {}).get("Code", ""))
            if code in _BY_CODE:
                return _BY_CODE[code]
    for cause in chain:
        name = type(cause).__name__
        if name == "FlexibleChecksumError":  # of botocore
            return ALTERED, "Take another checkpoint, or send this one again."
        if name in _BY_NAME:
            return _BY_NAME[name], CREDENTIALS
        if name in _UNREACHABLE or isinstance(cause, ConnectionError | socket.gaierror):
            return "it cannot be reached", NETWORK
    if isinstance(error, PermissionError):
        return _BY_CODE["AccessDenied"]
    if isinstance(error, TimeoutError):
        return "it does not answer in time", NETWORK
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket or folder", "Make it, or correct checkpoint.upload_to."
    if isinstance(error, OSError) and error.errno is not None:
        room = (
            "Free space where it is written to."
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else ""
        )
        return os.strerror(error.errno), room
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError) or package in ("botocore", "aiohttp", "gcsfs", "azure", "google"):
        return f"it answered with an error ({type(error).__name__})", ""
    return None


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found
