//! Compiles `wire/*.proto` with a pure Rust compiler, so that a build needs no system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "scheduler.proto",
        "manager.proto",
        "identity.proto",
        "peer.proto",
        "gossip.proto",
        "catalog.proto",
    ];
    println!("cargo:rerun-if-changed=wire");
    let descriptors = protox::compile(files, ["wire"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
