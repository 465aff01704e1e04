import MeshIdentity
import Testing

@Suite struct SPIFFEIDs {
    @Test func aWorkloadsIDHasItsParts() throws {
        let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db-1")
        #expect(id.trustDomain.name == "mesh.example")
        #expect(id.path == "/ns/prod/sa/db-1")
        #expect(id.namespace == "prod")
        #expect(id.serviceAccount == "db-1")
        #expect(id.description == "spiffe://mesh.example/ns/prod/sa/db-1")
        #expect(id == (try SPIFFEID(trustDomain: TrustDomain("mesh.example"), namespace: "prod", name: "db-1")))
    }

    @Test(arguments: [
        "spiffe://td", "spiffe://td/device/A.b_c-9", "spiffe://1.2_3-4/x", "spiffe://td/ns/a/sa",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe://td/NS/a/sa/b", "spiffe://td/.../..a/.b",
    ])
    func otherFormsAreIDsWithoutNamespace(_ text: String) throws {
        let id = try SPIFFEID(text)
        #expect(id.description == text)
        #expect(id.namespace == nil)
        #expect(id.serviceAccount == nil)
    }

    static let refusals: [(String, SPIFFEIDError.Code)] = [
        ("", .empty),
        ("https://td/ns/a/sa/b", .scheme), ("SPIFFE://td/a", .scheme), ("spiffe:/td/a", .scheme), ("td/a", .scheme),
        (" spiffe://td/a", .scheme),
        ("spiffe://", .trustDomain), ("spiffe:///a", .trustDomain), ("spiffe://Td/a", .trustDomain),
        ("spiffe://t d/a", .trustDomain), ("spiffe://tö/a", .trustDomain), ("spiffe://t\0d/a", .trustDomain),
        ("spiffe://[::1]/a", .trustDomain), ("spiffe://t*/a", .trustDomain),
        ("spiffe://user@td/a", .userInfo), ("spiffe://td:80/a", .port), ("spiffe://user:pw@td/a", .port),
        ("spiffe://td/a?b=c", .query), ("spiffe://td?", .query), ("spiffe://td/a#b", .fragment),
        ("spiffe://td#", .fragment),
        ("spiffe://t%64/a", .percentEncoding), ("spiffe://td/a%20b", .percentEncoding),
        ("spiffe://td//a", .emptySegment), ("spiffe://td/a//b", .emptySegment),
        ("spiffe://td/./a", .dotSegment), ("spiffe://td/a/..", .dotSegment), ("spiffe://td/../b", .dotSegment),
        ("spiffe://td/", .trailingSlash), ("spiffe://td/a/", .trailingSlash),
        ("spiffe://td/a b", .character), ("spiffe://td/a:b", .character), ("spiffe://td/ä", .character),
        ("spiffe://td/a\0", .character), ("spiffe://td/a\n", .character), ("spiffe://td/a*", .character),
    ]

    @Test(arguments: refusals)
    func eachRuleIsNamed(_ text: String, _ code: SPIFFEIDError.Code) {
        let error = #expect(throws: SPIFFEIDError.self) { try SPIFFEID(text) }
        #expect(error?.code == code, "\(text): \(error?.message ?? "accepted")")
        // A hostile name never brings control characters into a log.
        #expect(error?.message.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value < 0x7F } == true)
    }

    @Test func lengthsEndWhereTheSpecificationSays() throws {
        let longestDomain = String(repeating: "a", count: 255)
        #expect(try TrustDomain(longestDomain).name == longestDomain)
        #expect(throws: SPIFFEIDError.self) { try TrustDomain(longestDomain + "a") }
        let longest = "spiffe://td/" + String(repeating: "b", count: 2048 - 12)
        #expect(try SPIFFEID(longest).description == longest)
        let error = #expect(throws: SPIFFEIDError.self) { try SPIFFEID(longest + "b") }
        #expect(error?.code == .length)
    }

    static let badSegments: [(String, String, SPIFFEIDError.Code)] = [
        ("", "a", .emptySegment), ("a", "", .emptySegment), ("a/b", "c", .character),
        ("a", "b/c", .character),
        ("..", "a", .dotSegment), ("a", ".", .dotSegment), ("a b", "c", .character), ("a", "b%2Fc", .percentEncoding),
    ]

    @Test(arguments: badSegments)
    func partsAreOneSegmentEach(_ namespace: String, _ name: String, _ code: SPIFFEIDError.Code) throws {
        let domain = try TrustDomain("td")
        let error = #expect(throws: SPIFFEIDError.self) {
            try SPIFFEID(trustDomain: domain, namespace: namespace, name: name)
        }
        #expect(error?.code == code)
    }
}
