"""Two Envoys, and the pieces of configuration that others build theirs of."""

import json
import os

from pair import TRUST_DOMAIN, Peer, free_port


class Envoy(Peer):
    """CONNECT over mTLS HTTP/2 between two Envoys, with the windows that Istio sets."""

    name = "envoy"
    binary = None
    can_be_distant = True
    windows = {"initial_stream_window_size": 4 << 20, "initial_connection_window_size": 16 << 20}

    def transport(self, kind, name, peer):
        context = {
            "@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{
                    "certificate_chain": {"filename": f"{self.certificates}/{name}/cert-chain.pem"},
                    "private_key": {"filename": f"{self.certificates}/{name}/key.pem"},
                }],
                "validation_context": {
                    "trusted_ca": {"filename": f"{self.certificates}/ca.pem"},
                    "match_typed_subject_alt_names": [{
                        "san_type": "URI", "matcher": {"exact": f"spiffe://{TRUST_DOMAIN}/ns/default/sa/{peer}"}}],
                },
            },
        }
        if kind == "DownstreamTlsContext":
            context["require_client_certificate"] = True
        return {"name": "tls", "typed_config": context}

    @staticmethod
    def address(port):
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def cluster(self, name, port, **more):
        return {
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{
                "max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]},
            "load_assignment": {"cluster_name": name, "endpoints": [{
                "lb_endpoints": [{"endpoint": {"address": self.address(port)}}]}]},
            **more,
        }

    def envoy(self, name, listeners, clusters, port, **more):
        admin = os.path.join(self.directory, f"{name}-admin.sock")
        path = self.write(f"{name}.json", json.dumps({
            "admin": {"address": {"pipe": {"path": admin}}},
            "static_resources": {"listeners": listeners, "clusters": clusters},
            **more,
        }))
        self.spawn([self.binary, "-c", path, "--disable-hot-restart", "--log-level", "warn"], port)

    def start_server(self, name, peer, tunnel, target):
        """Ends mutual TLS and CONNECT, and dials `target`."""
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
                     "HttpConnectionManager",
            "stat_prefix": "tunnel", "codec_type": "HTTP2", "stream_idle_timeout": "0s",
            "http2_protocol_options": {"allow_connect": True, **self.windows},
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
                "match": {"connect_matcher": {}},
                "route": {"cluster": "target", "timeout": "0s",
                          "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}]}]},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        }
        self.envoy(name, [{
            "name": "tunnel", "address": self.address(tunnel),
            "filter_chains": [{
                "transport_socket": self.transport("DownstreamTlsContext", name, peer),
                "filters": [{"name": "http", "typed_config": manager}]}],
        }], [self.cluster("target", target)], tunnel)

    def tunneling(self, cluster):
        """Puts a connection into a CONNECT for the target."""
        return {"filters": [{"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": cluster, "cluster": cluster, "idle_timeout": "0s",
            "tunneling_config": {"hostname": f"127.0.0.1:{self.target}"}}}]}

    def originating(self, peer):
        """What makes a cluster one of mutual TLS and HTTP/2."""
        return {
            "transport_socket": self.transport("UpstreamTlsContext", "client", peer),
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {"allow_connect": True, **self.windows}}}},
        }

    def start(self):
        self.port, tunnel = free_port(), free_port()
        self.start_server("server", "client", tunnel, self.target)
        self.envoy("client", [{
            "name": "in", "address": self.address(self.port), "filter_chains": [self.tunneling("tunnel")],
        }], [self.cluster("tunnel", self.reach(tunnel), **self.originating("server"))], self.port)
        self.processes.reverse()


class EnvoyDefaults(Envoy):
    name = "envoy, default windows"
    windows = {}
