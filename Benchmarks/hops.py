"""Peers with more on the way than one mutual TLS: a gateway or a proxy between the two, or streams that outlive their path."""

import os

import peers


class BootstrapResumable(peers.Bootstrap):
    """Streams that go on by another path when theirs dies (docs/protocol.md, 2.10): both ends number, acknowledge and keep bytes."""

    name = "bootstrap, resumable"

    def way(self, tunnel):
        return [*super().way(tunnel), "resumable: true"]


class BootstrapRecorded(peers.Bootstrap):
    """What operators switch on: a line for each stream in the access log, and metrics, which nobody asks for meanwhile."""

    name = "bootstrap, access log and metrics"

    def node(self, name, configuration):
        log = os.path.join(self.directory, f"{name}-access.log")
        super().node(name, f"""\
{configuration}accessLog: {{file: {log}}}
metrics: "127.0.0.1:{peers.free_port()}"
""")


class BootstrapDouble(peers.Bootstrap):
    """Double HBONE: a gateway between the two, which carries the mutual TLS of client and server as bytes."""

    name = "bootstrap, double HBONE"
    can_be_distant = False

    def start(self):
        self.port, gateway, tunnel = peers.free_port(), peers.free_port(), peers.free_port()
        self.start_node_server(tunnel)
        self.node("gateway", f"""\
identity: {self.certificates}/gateway
listeners:
- {{name: hbone, bind: "127.0.0.1:{gateway}", protocol: hbone}}
endpoints:
- {{match: "127.0.0.1:{self.target}", address: "127.0.0.1:{tunnel}", direct: true}}
""")
        self.start_node_client([
            f'via: ["127.0.0.1:{gateway}"]',
            f'viaIdentity: "spiffe://{peers.TRUST_DOMAIN}/ns/default/sa/gateway"'])
        self.processes.reverse()


class BootstrapTun(peers.Bootstrap):
    """Inner mutual TLS through an Envoy that ends the outer TLS, by a certificate of the web, and sees ciphertext."""

    name = "bootstrap, tun through envoy"
    can_be_distant = False

    def start(self):
        self.port, proxy, tunnel = peers.free_port(), peers.free_port(), peers.free_port()
        self.start_node_server(tunnel, ", cleartext: true")
        EnvoyProxy(self).start(proxy, tunnel)
        self.start_node_client([
            *self.way(proxy), "labels: {tun: POST}",
            f"proxy: {{roots: {self.certificates}/ca.pem, serverName: {peers.PROXY}}}"])
        self.processes.reverse()


class EnvoyProxy(peers.Envoy):
    """What stands between the nodes of `BootstrapTun`."""

    def __init__(self, peer):
        self.directory, self.certificates, self.processes = peer.directory, peer.certificates, peer.processes

    def start(self, port, tunnel):
        http2 = {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                 "explicit_http_config": {"http2_protocol_options": self.windows}}
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "web", "codec_type": "HTTP2", "stream_idle_timeout": "0s", "http2_protocol_options": self.windows,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
                "match": {"path": "/"}, "route": {"cluster": "node", "timeout": "0s"}}]}]},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        }
        secure = self.transport("DownstreamTlsContext", "proxy", "client")
        del secure["typed_config"]["require_client_certificate"], secure["typed_config"]["common_tls_context"]["validation_context"]
        self.envoy("proxy", [{
            "name": "web", "address": self.address(port),
            "filter_chains": [{"transport_socket": secure, "filters": [{"name": "http", "typed_config": manager}]}],
        }], [self.cluster("node", tunnel, typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2})], port)


class EnvoyDouble(peers.Envoy):
    """Double HBONE as Istio builds it: an internal listener of the client puts mutual TLS with the server into a CONNECT of the gateway."""

    name = "envoy, double HBONE"
    can_be_distant = False

    def start(self):
        self.port, gateway, tunnel = peers.free_port(), peers.free_port(), peers.free_port()
        self.start_server("server", "client", tunnel, self.target)
        self.start_server("gateway", "client", gateway, tunnel)
        inner = self.cluster("inner", 0, **self.originating("server"))
        inner["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = {
            "envoy_internal_address": {"server_listener_name": "outer", "endpoint_id": "inner"}}
        self.envoy("client", [
            {"name": "in", "address": self.address(self.port), "filter_chains": [self.tunneling("inner")]},
            {"name": "outer", "internal_listener": {}, "filter_chains": [self.tunneling("outer")]},
        ], [inner, self.cluster("outer", gateway, **self.originating("gateway"))], self.port, bootstrap_extensions=[{
            "name": "envoy.bootstrap.internal_listener", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"}}])
        self.processes.reverse()
