plugins {
    alias(libs.plugins.android.application) apply false
}

// `gradle wrapper`, with whatever Gradle from 8.13 on, writes the wrapper of this version.
tasks.wrapper {
    gradleVersion = "8.13"
    distributionSha256Sum = "20f1b1176237254a6fc204d8434196fa11a4cfb387567519c61556e8710aed78"
}
