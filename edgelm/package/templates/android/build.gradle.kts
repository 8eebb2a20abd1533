// Written by edgelm package for @MODEL_NAME@. The root project names the version of the Android Gradle plugin.
plugins {
    id("com.android.library")
}

android {
    namespace = "@PACKAGE@"
    compileSdk = @COMPILE_SDK@

    defaultConfig {
        minSdk = @MIN_SDK@
        consumerProguardFiles("consumer-rules.pro")
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
        ndk { abiFilters += listOf(@ABIS@) }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    androidResources { noCompress += "tflite" }  // the model is mapped from the APK, not unpacked
}

dependencies {
    @DEPENDENCY_LINE@
    androidTestImplementation("androidx.test:runner:1.6.2")
    androidTestImplementation("junit:junit:4.13.2")
}
