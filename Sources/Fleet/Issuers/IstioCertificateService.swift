import H2Transport
import Streams

/// The messages of `istio.v1.auth.IstioCertificateService` (istio/api, security/v1alpha1/ca.proto).
enum IstioCertificateService {
    static let createCertificate = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

    /// `IstioCertificateRequest`.
    struct Request {
        /// PKCS#10 in PEM form; field 1.
        var csr: String
        /// Seconds; field 3. The CA may give less.
        var validityDuration: Int64

        var encoded: [UInt8] {
            var writer = ProtobufWriter()
            writer.add(1, csr)
            writer.add(3, validityDuration)
            return writer.bytes
        }
    }

    /// `IstioCertificateResponse`.
    struct Response {
        /// PEM; field 1: the leaf first, the root last, which may be several in one element.
        var certificateChain: [[UInt8]] = []

        init(decoding bytes: [UInt8]) throws(StreamError) {
            var reader = ProtobufReader(bytes)
            while let (field, value) = try reader.next() {
                if field == 1, case .bytes(let pem) = value { certificateChain.append(pem) }
            }
        }
    }
}
