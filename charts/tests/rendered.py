"""Checks what `helm template` prints, from standard input: every document against the Kubernetes
schemas (version: the first argument), the settings of every container by darner itself (the program:
the second argument), and what no schema can tell: names that have to agree with each other.
"""

import base64
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import kubernetes_validate
import yaml

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


def parsed(file, text):
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{file}: {error}")
        return {}


def environment(container):
    """As the container has it, with an address or a name for what only a cluster can say."""
    variables = {}
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        value = variable.get("value", "10.0.0.5" if source.endswith("IP") else "some-name")
        for name, known in variables.items():
            value = value.replace(f"$({name})", known)
        variables[variable["name"]] = value
    return variables


def check_settings(where, container, text, files):
    """Lets darner read the settings, with `files` at the places where they name them."""
    with tempfile.TemporaryDirectory() as directory:
        for file in files:
            place = Path(directory, file.lstrip("/"))
            place.parent.mkdir(parents=True, exist_ok=True)
            key = file.endswith("cluster.key")
            place.write_text("0f" * 32 if key else "-----BEGIN CERTIFICATE-----\n")
            text = text.replace(f'"{file}"', f'"{place}"')
        settings = Path(directory, "settings.toml")
        settings.write_text(text)
        command = [sys.argv[2], "config", "check", container["args"][0], "--config", settings]
        checked = subprocess.run(
            command, env=environment(container), capture_output=True, text=True, check=False
        )
        must(checked.returncode == 0, f"{where}: {checked.stderr.replace(directory, '')}")


def check_container(where, container, volumes, settings, user):
    for mount in container.get("volumeMounts", []):
        must(mount["name"] in volumes, f"{where}: no volume {mount['name']}")
    args = container["args"]
    if "--config" in args:
        path = Path(args[args.index("--config") + 1])
        must(path.parent == Path("/etc/darner"), f"{where}: {path} is not mounted")
        must(path.name in settings, f"{where}: no settings {path.name}")
        must(user == image_user(), f"{where}: runs as {user}, the image is for {image_user()}")
        text = settings.get(path.name, "")
        files = check_files(where, container, volumes, parsed(path.name, text))
        check_settings(where, container, text, files)
    context = container["securityContext"]
    must(context["readOnlyRootFilesystem"], f"{where}: can write to its image")
    must(context["capabilities"]["drop"] == ["ALL"], f"{where}: keeps capabilities")
    must(not context["allowPrivilegeEscalation"], f"{where}: can gain privileges")


def check_files(where, container, volumes, settings):
    """Every file that the settings name is in a volume. Gives the files in that volume."""
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    there = set()
    for source in volumes.get("upstreams", {}).get("projected", {}).get("sources", []):
        for kind in source.values():
            there |= {f"{mounts.get('upstreams')}/{item['path']}" for item in kind["items"]}
    secret = volumes.get("identity", {}).get("secret", {})
    there |= {f"{mounts.get('identity')}/{item['path']}" for item in secret.get("items", [])}
    named = (
        ("identity", "token_file"),
        ("identity", "cluster_key_file"),
        ("manager", "join_tokens_file"),
    )
    for section, key in named:
        if key in settings.get(section, {}):
            must(settings[section][key] in there, f"{where}: no file {settings[section][key]}")
    for upstream in settings.get("upstream", []):
        for key in ("ca_file", "password_file"):
            if key in upstream:
                must(upstream[key] in there, f"{where}: no file {upstream[key]}")
    must(settings.get("data_dir") in mounts.values(), f"{where}: data_dir is not a volume")
    return there


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


def check_secret(document):
    if "cluster.key" in document["data"]:
        key = base64.b64decode(document["data"]["cluster.key"]).decode()
        must(re.fullmatch("[0-9a-f]{64}", key), f"{name_of(document)}: no cluster key")
    else:
        check_tokens(document)


def check_tokens(document):
    """Each is of its role, and the manager knows them all."""
    tokens = {key: base64.b64decode(text).decode() for key, text in document["data"].items()}
    known = set(tokens.pop("manager", "").splitlines())
    must(known == set(tokens.values()), f"{name_of(document)}: the manager knows other tokens")
    for role in ("scheduler", "seed", "mirror"):
        form = rf"darner-join\.{role}\.[0-9a-f]{{16}}\.[0-9a-f]{{64}}"
        must(re.fullmatch(form, tokens.get(role, "")), f"{name_of(document)}: no token of a {role}")


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


def check_account(workload, names, settings):
    """Who asks the API has an account with a role, and the token; others have none."""
    pod = workload["spec"]["template"]["spec"]
    account = pod.get("serviceAccountName")
    asks = account is not None
    must(pod["automountServiceAccountToken"] is asks, f"{name_of(workload)}: its token")
    if asks:
        for kind in ("ServiceAccount", "Role", "RoleBinding"):
            must(f"{kind}/{account}" in names, f"{name_of(workload)}: no {kind}/{account}")
        gossip = parsed("mirror.toml", settings.get("mirror.toml", "")).get("gossip", {})
        service = gossip.get("kubernetes_service", "").split("/")[-1]
        must(f"Service/{service}" in names, f"{name_of(workload)}: no service {service}")


def image_user():
    recipe = Path(__file__).parents[2] / "Containerfile"
    return int(re.findall(r"^USER (\d+):\1$", recipe.read_text(), re.MULTILINE)[-1])


def main():
    version = sys.argv[1]
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    kinds = {document["kind"] for document in documents}
    must({"ConfigMap", "DaemonSet", "Service"} <= kinds, f"only {kinds}")
    names = [name_of(document) for document in documents]
    must(len(set(names)) == len(names), f"a name twice in {names}")
    settings = {}
    for document in documents:
        check_schema(document, version)
        if document["kind"] == "Secret":
            check_secret(document)
        if document["kind"] == "ConfigMap":
            settings |= document["data"]
    workloads = [document for document in documents if document["kind"] in WORKLOADS]
    for workload in workloads:
        check_workload(workload, settings)
        check_account(workload, names, settings)
    for document in documents:
        if document["kind"] == "Service":
            check_service(document, workloads)
    print("\n".join(faults) or f"{len(documents)} documents")
    return 1 if faults else 0


sys.exit(main())
