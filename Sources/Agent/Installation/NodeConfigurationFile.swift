import MeshIdentity
import SSHSignal

/// The configuration that `enroll` gives a device's node: an HBONE server with the device's identity, open to members
/// of its own namespace for the ports that the operator named.
enum NodeConfigurationFile {
    static func text(identity: String, id: SPIFFEID, node: SignalMessage.NodeRequest) -> String {
        var text = """
            # Written by `bootstrap enroll`, which replaces it when its options change.
            identity: \(quote(identity))
            listeners:
            - {name: hbone, bind: \(quote(NumericAddress.text(node.bind, node.port))), protocol: hbone}
            default: deny

            """
        if let source = node.renewFrom { text += "renewal: {from: \(quote(source))}\n" }
        let ports = Set(node.allowPorts).sorted()
        if !ports.isEmpty, let namespace = id.namespace {
            text += """
                policy:
                - name: enrolled
                  action: ALLOW
                  rules:
                  - from: [{principals: [\(quote("\(id.trustDomain)/ns/\(namespace)/sa/*"))]}]
                    to: [{ports: [\(ports.map(String.init).joined(separator: ", "))]}]

                """
        }
        return text
    }

    /// A double-quoted YAML scalar. Paths may hold anything but control characters, which are escaped.
    private static func quote(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": result += "\\\(scalar)"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let digits = String(scalar.value, radix: 16)
                result += "\\x" + String(repeating: "0", count: 2 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
