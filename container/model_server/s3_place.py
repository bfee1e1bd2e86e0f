"""Where a bucket is, and what opens it: botocore's endpoint rules, settings and credentials, without its client.

That would take 15 MiB a worker, half a second, and most of the time of a small request.
"""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import MissingDependencyException, NoCredentialsError
from botocore.handlers import validate_bucket_name
from botocore.loaders import Loader
from botocore.session import Session

from .s3_signature import Keys, Signer

if TYPE_CHECKING:
    from botocore.credentials import Credentials

GLOBAL_REGION = "aws-global"
"""Where botocore asks for buckets if no region is set."""


@dataclass(frozen=True)
class Place:
    """Where a bucket is: an origin such as `https://name.s3.eu-north-1.amazonaws.com`, and what its paths begin with.

    Where requests are signed with keys of a session of the bucket (S3 Express), `session_signer` signs for those.
    """

    origin: str
    host: str
    base: str
    region: str
    signer: Signer
    session_signer: Signer | None = None


class Places:
    """Finds the place of each bucket, once; `endpoint` is a server that all buckets are at instead of AWS's."""

    def __init__(self, endpoint: str | None, region: str | None) -> None:
        session = self._session = _session()
        self._parameters = _parameters(session, endpoint, region or session.get_config_variable("region"))
        loader = session.get_component("data_loader")
        # Not by `load_service_model`, which looks through the folders of all services whether there is such a one.
        version = loader.determine_latest_version("s3", "endpoint-rule-set-1")
        self._rules = EndpointProvider(
            loader.load_data(f"s3/{version}/endpoint-rule-set-1"), loader.load_data("partitions")
        )
        self._places: dict[str, Place] = {}
        self._credentials: Credentials | None = None
        self._lock = threading.Lock()

    @property
    def certificates(self) -> str | None:
        """The file of certificates that the settings of AWS's tools name."""
        found: str | None = self._session.get_config_variable("ca_bundle")
        return found

    def of(self, bucket: str) -> Place:
        """Return where a bucket is; raises what botocore does for a name that can be no bucket's."""
        place = self._places.get(bucket)
        if place is None:
            validate_bucket_name({"Bucket": bucket})
            place = self._places[bucket] = self._find(bucket, {})
        return place

    def move(self, bucket: str, region: str) -> None:
        """Look for a bucket in another region from now on: that is where S3 says it is."""
        self._places[bucket] = self._find(bucket, {"Region": region})

    def _find(self, bucket: str, changes: dict[str, Any]) -> Place:
        with self._lock:
            found = self._rules.resolve_endpoint(**self._parameters | {"Bucket": bucket} | changes)
        schemes = found.properties["authSchemes"]
        scheme = next((scheme for scheme in schemes if scheme["name"] in ("sigv4", "sigv4-s3express")), None)
        if scheme is None:
            raise MissingDependencyException(msg=f"A signature of another kind is wanted: {schemes[0]['name']}")
        address = urlsplit(found.url)
        host = _host(address)
        service, region = scheme["signingName"], scheme["signingRegion"]
        signer, session_signer = Signer(service, region), None
        if scheme["name"] == "sigv4-s3express":
            signer, session_signer = Signer(service, region, "x-amz-s3session-token"), signer
        return Place(f"{address.scheme}://{host}", host, address.path.rstrip("/"), region, signer, session_signer)

    def credentials(self) -> "Credentials":
        """Return those in use, which are looked for if there are none; raises botocore's errors."""
        found = self._credentials
        if found is None:
            with self._lock:
                found = self._credentials = self._credentials or self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        return found

    def keys(self) -> Keys:
        """Return the keys of the moment, fresh ones if they are about to end; raises botocore's errors."""
        keys = self.credentials().get_frozen_credentials()
        return Keys(keys.access_key or "", keys.secret_key or "", keys.token)

    def forget_credentials(self, used: "Credentials | None") -> None:
        """Look for credentials anew at the next request, unless that has been done since `used` were found.

        botocore refreshes them by their stated end only, and keeps those of a file or none for as long as it lives.
        """
        with self._lock:
            if self._credentials is used:
                self._credentials = None
                self._session = _session()  # it remembers them too, and the files that they came from


def _host(address: SplitResult) -> str:
    """Return the host as clients name it, and servers sign it: without the port that goes without saying."""
    host = address.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    usual = {"http": 80, "https": 443}.get(address.scheme)
    return host if address.port in (None, usual) else f"{host}:{address.port}"


def _session() -> Session:
    session = Session()
    # Not from ~/.aws/models: an image could have a description of S3 there that names another server.
    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    session.register_component("data_loader", loader)
    # Nor keys from /etc/boto.cfg or ~/.boto, which an image could have and which would go before the job's role.
    session.get_component("credential_provider").remove("boto-config")
    return session


def _parameters(session: Session, endpoint: str | None, region: str | None) -> dict[str, Any]:
    """Return what botocore gives to the rules for S3 besides a bucket (botocore/args.py)."""
    chosen: dict[str, Any] = session.get_config_variable("s3") or {}
    accelerate = bool(chosen.get("use_accelerate_endpoint"))
    style = chosen.get("addressing_style")
    dual_stack = chosen.get("use_dualstack_endpoint") or session.get_config_variable("use_dualstack_endpoint")
    parameters = {
        "Region": region or GLOBAL_REGION,
        "UseFIPS": bool(not endpoint and session.get_config_variable("use_fips_endpoint")),
        "UseDualStack": bool(not endpoint and dual_stack),
        "UseGlobalEndpoint": region in ("us-east-1", None) and chosen.get("us_east_1_regional_endpoint") != "regional",
        "Accelerate": accelerate,
        "ForcePathStyle": not accelerate and (style != "virtual" if endpoint else style == "path"),
        "UseArnRegion": chosen.get("use_arn_region", True),
        "DisableMultiRegionAccessPoints": chosen.get("s3_disable_multiregion_access_points", False),
    }
    return parameters | ({"Endpoint": endpoint} if endpoint else {})
