"""cc_proto: protoc (and grpc_cpp_plugin) from /usr/bin, compiled once per .proto and shared by everybody."""

load("//bazel:library.bzl", "cc_library")

def cc_proto(name, src, deps = [], grpc = False, **kwargs):
    """A .proto as a cc_library.

    Args:
      name: the library; "<name>_protos" is its transitive set of sources.
      src: the .proto file, in this package.
      deps: other cc_proto libraries that it imports.
      grpc: also generate service code, and link gRPC. Leave it off for messages: gRPC headers are slow to compile.
      **kwargs: passed to cc_library.
    """
    base = src[:-len(".proto")]
    outs = [base + ".pb.h", base + ".pb.cc"]
    command = "/usr/bin/protoc -I. --cpp_out=$(GENDIR)"
    if grpc:
        outs += [base + ".grpc.pb.h", base + ".grpc.pb.cc"]
        command += " --plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin --grpc_out=$(GENDIR)"
    native.filegroup(name = name + "_protos", srcs = [src] + [d + "_protos" for d in deps])
    native.genrule(
        name = name + "_gen",
        srcs = [src] + [d + "_protos" for d in deps],
        outs = outs,
        cmd = command + " $(location " + src + ")",
        message = "protoc",
    )
    cc_library(
        name = name,
        srcs = [o for o in outs if o.endswith(".cc")],
        hdrs = [o for o in outs if o.endswith(".h")],
        deps = deps + ["//third_party:grpc" if grpc else "//third_party:protobuf"],
        copts = ["-Wno-extra"],
        **kwargs
    )
