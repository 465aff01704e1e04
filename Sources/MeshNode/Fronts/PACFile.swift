import MeshPolicy
import Platform

/// The script by which a browser finds out what goes through the proxy: what an endpoint is for. The rest goes where it
/// went before.
enum PACFile {
    /// - Parameters:
    ///   - proxy: As the browser reaches it.
    ///   - endpoints: In any order.
    static func script(proxy: Authority, endpoints: [EndpointMatch]) -> String {
        let rules = endpoints.map { match in
            let port = match.port.map(String.init) ?? "0"
            return switch match.host {
            case .any: "    [\"any\", \"\", \(port)]"
            // What a match can have is in the alphabet of host names and addresses: nothing to escape.
            case .exact(let name): "    [\"is\", \"\(name)\", \(port)]"
            case .suffix(let suffix): "    [\"ends\", \"\(suffix)\", \(port)]"
            case .block(let block): "    [\"in\", \"\(block)\", \(port)]"
            }
        }
        return """
            // The bits of an address, or null for a name: a name is never resolved here.
            function bits(text) {
              var out = "", i, groups;
              if (/^\\d+\\.\\d+\\.\\d+\\.\\d+$/.test(text)) {
                groups = text.split(".");
                for (i = 0; i < 4; i++) out += (256 + Number(groups[i])).toString(2).slice(1);
                return out;
              }
              if (text.indexOf(":") < 0) return null;
              var halves = text.split("::");
              var head = halves[0] ? halves[0].split(":") : [];
              var tail = halves.length > 1 && halves[1] ? halves[1].split(":") : [];
              while (halves.length > 1 && head.length + tail.length < 8) head.push("0");
              groups = head.concat(tail);
              if (groups.length !== 8) return null;
              for (i = 0; i < 8; i++) out += (65536 + parseInt(groups[i], 16)).toString(2).slice(1);
              return out;
            }

            function FindProxyForURL(url, host) {
              // In here they are no variable of whoever else runs this script.
              var rules = [
            \(rules.joined(separator: ",\n"))
              ];
              var parts = /^([a-z]+):\\/\\/(?:[^\\/@]*@)?(\\[[^\\]]*\\]|[^\\/:?#]*)(?::(\\d+))?/i.exec(url);
              var scheme = parts ? parts[1].toLowerCase() : "";
              var port = parts && parts[3] ? Number(parts[3]) : scheme === "https" || scheme === "wss" ? 443 : 80;
              host = host.toLowerCase().replace(/^\\[|\\]$/g, "").replace(/\\.$/, "");
              var address = bits(host);
              // ::ffff:10.0.0.1 is 10.0.0.1.
              if (address !== null && /^0{80}1{16}/.test(address)) address = address.slice(96);
              for (var i = 0; i < rules.length; i++) {
                var kind = rules[i][0], value = rules[i][1];
                if (rules[i][2] && rules[i][2] !== port) continue;
                var found = kind === "any";
                if (kind === "is") found = host === value || (address !== null && address === bits(value));
                if (kind === "ends") {
                  found = address === null && host.length > value.length
                    && host.slice(host.length - value.length) === value;
                }
                if (kind === "in") {
                  var slash = value.split("/"), block = bits(slash[0]), length = Number(slash[1]);
                  found = address !== null && block !== null && address.length === block.length
                    && address.slice(0, length) === block.slice(0, length);
                }
                if (found) return "PROXY \(proxy)";
              }
              return "DIRECT";
            }

            """
    }
}
