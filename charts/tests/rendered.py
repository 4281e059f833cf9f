"""Checks what `helm template` prints, from standard input: every document against the Kubernetes
schemas (version: the first argument), the settings files against the keys that darner knows, and
what no schema can tell: names that have to agree with each other.
"""

import re
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import yaml

# Every key of service/src/settings.rs, as in a file.
KEYS = {
    "": {"data_dir"},
    "node": {"id", "labels"},
    "mirror": {"role"},
    "registry": {"listen", "default_upstream", "first_byte_timeout", "max_requests"},
    "upstream": {
        "name", "url", "ca_file", "username", "password_file", "tag_ttl", "max_connections",
    },
    "pieces": {"listen", "advertise", "upload_slots"},
    "scheduler": {"listen", "advertise", "addresses", "settle"},
    "manager": {"listen", "api_listen", "address", "database"},
    "store": {"capacity"},
    "admin": {"listen"},
    "identity": {"insecure"},
}
WORKLOADS = {"DaemonSet", "StatefulSet", "Deployment"}

faults = []


def must(holds, fault):
    if not holds:
        faults.append(fault)


def name_of(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def check_schema(document, version):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(part) for part in error.path)
        faults.append(f"{name_of(document)}: {where}: {error.message}")
    except kubernetes_validate.SchemaNotFoundError as error:
        faults.append(f"{name_of(document)}: {error}")


def check_settings(file, text):
    """Gives the settings, parsed."""
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{file}: {error}")
        return {}
    for section, value in settings.items():
        if not isinstance(value, (dict, list)):
            must(section in KEYS[""], f"{file}: unknown key {section}")
            continue
        for table in value if isinstance(value, list) else [value]:
            for key in table:
                known = key in KEYS.get(section, ())
                must(known, f"{file}: unknown key {section}.{key}")
    return settings


def check_environment(where, container):
    for variable in container.get("env", []):
        name = variable["name"]
        if not name.startswith("DARNER_"):
            continue
        section, _, key = name.removeprefix("DARNER_").lower().partition("__")
        must(key in KEYS.get(section, ()), f"{where}: {name} is no setting")


def check_container(where, container, volumes, settings, user):
    check_environment(where, container)
    for mount in container.get("volumeMounts", []):
        must(mount["name"] in volumes, f"{where}: no volume {mount['name']}")
    args = container["args"]
    if "--config" in args:
        path = Path(args[args.index("--config") + 1])
        must(path.parent == Path("/etc/darner"), f"{where}: {path} is not mounted")
        must(path.name in settings, f"{where}: no settings {path.name}")
        must(user == image_user(), f"{where}: runs as {user}, the image is for {image_user()}")
        check_files(where, container, volumes, settings.get(path.name, {}))
    context = container["securityContext"]
    must(context["readOnlyRootFilesystem"], f"{where}: can write to its image")
    must(context["capabilities"]["drop"] == ["ALL"], f"{where}: keeps capabilities")
    must(not context["allowPrivilegeEscalation"], f"{where}: can gain privileges")


def check_files(where, container, volumes, settings):
    """Every file that the settings name is in a volume."""
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    there = set()
    for source in volumes.get("upstreams", {}).get("projected", {}).get("sources", []):
        for kind in source.values():
            there |= {f"{mounts.get('upstreams')}/{item['path']}" for item in kind["items"]}
    for upstream in settings.get("upstream", []):
        for key in ("ca_file", "password_file"):
            if key in upstream:
                must(upstream[key] in there, f"{where}: no file {upstream[key]}")
    must(settings.get("data_dir") in mounts.values(), f"{where}: data_dir is not a volume")


def check_workload(document, settings):
    spec = document["spec"]
    labels = spec["template"]["metadata"]["labels"]
    selector = spec["selector"]["matchLabels"]
    must(selector.items() <= labels.items(), f"{name_of(document)}: selects other pods")
    pod = spec["template"]["spec"]
    # Service links would be environment variables that look like settings.
    must(pod.get("enableServiceLinks") is False, f"{name_of(document)}: has service links")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for claim in spec.get("volumeClaimTemplates", []):
        volumes[claim["metadata"]["name"]] = claim
    for container in pod.get("initContainers", []) + pod["containers"]:
        where = f"{name_of(document)}: {container['name']}"
        own = container["securityContext"].get("runAsUser")
        user = pod["securityContext"]["runAsUser"] if own is None else own
        check_container(where, container, volumes, settings, user)


def check_service(document, workloads):
    selector = document["spec"]["selector"]
    pods = [
        workload["spec"]["template"]
        for workload in workloads
        if selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    ]
    must(len(pods) == 1, f"{name_of(document)}: selects the pods of {len(pods)} workloads")
    for pod in pods:
        ports = {
            port["name"] for container in pod["spec"]["containers"] for port in container["ports"]
        }
        for port in document["spec"]["ports"]:
            target = port["targetPort"]
            must(target in ports, f"{name_of(document)}: no port {target}")


def image_user():
    recipe = Path(__file__).parents[2] / "Containerfile"
    return int(re.findall(r"^USER (\d+):\1$", recipe.read_text(), re.MULTILINE)[-1])


def main():
    version = sys.argv[1]
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    kinds = {document["kind"] for document in documents}
    must({"ConfigMap", "DaemonSet", "StatefulSet", "Service"} <= kinds, f"only {kinds}")
    names = [name_of(document) for document in documents]
    must(len(set(names)) == len(names), f"a name twice in {names}")
    settings = {}
    for document in documents:
        check_schema(document, version)
        if document["kind"] == "ConfigMap":
            for file, text in document["data"].items():
                settings[file] = check_settings(file, text)
    workloads = [document for document in documents if document["kind"] in WORKLOADS]
    for workload in workloads:
        check_workload(workload, settings)
    for document in documents:
        if document["kind"] == "Service":
            check_service(document, workloads)
    print("\n".join(faults) or f"{len(documents)} documents")
    return 1 if faults else 0


sys.exit(main())
