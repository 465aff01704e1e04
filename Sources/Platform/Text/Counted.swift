/// A number with what it counts, as people write it: `1 device`, `2 devices`.
///
/// - Parameter noun: For one.
/// - Parameter plural: For any other number; nil puts an `s` behind `noun`.
package func counted(_ count: Int, _ noun: String, plural: String? = nil) -> String {
    "\(count) \(count == 1 ? noun : plural ?? "\(noun)s")"
}
