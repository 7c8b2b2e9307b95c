"""The gRPC surface. grpc and the messages of the protos are known here and nowhere below."""
