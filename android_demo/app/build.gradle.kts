plugins {
    alias(libs.plugins.android.application)
}

android {
    namespace = "dev.edgelm.demo"
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        applicationId = "dev.edgelm.demo"
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = 1
        versionName = "0.1.0"
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
    }

    buildTypes {
        release {
            isMinifyEnabled = true
            isShrinkResources = true
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"), "proguard-rules.pro")
            signingConfig = signingConfigs.getByName("debug")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    androidResources {
        // A stored model is memory-mapped straight from the APK; a compressed one would have to be unpacked first.
        noCompress += "tflite"
    }

    packaging {
        jniLibs.useLegacyPackaging = false
    }

    lint {
        abortOnError = true
        checkReleaseBuilds = true
    }
}

/** Puts a model that `edgelm convert` wrote, and the golden its texts are compared with, into the assets. */
abstract class CopyModelTask : DefaultTask() {
    @get:InputFile
    @get:PathSensitive(PathSensitivity.NONE)
    abstract val model: RegularFileProperty

    /** The model's name in the app. */
    @get:Input
    abstract val modelName: Property<String>

    @get:InputFile
    @get:PathSensitive(PathSensitivity.NONE)
    abstract val golden: RegularFileProperty

    @get:OutputDirectory
    abstract val assets: DirectoryProperty

    @TaskAction
    fun copy() {
        val folder = assets.get().asFile
        folder.deleteRecursively()
        model.get().asFile.copyTo(folder.resolve("models/${modelName.get()}.tflite"))
        golden.get().asFile.copyTo(folder.resolve("golden/engine.json"))
    }
}

// -Pedgelm.artifact=FOLDER (or a lone .tflite), relative to this project's root; else the one that `make android` converts.
val artifact = rootProject.file(providers.gradleProperty("edgelm.artifact").getOrElse("../build/android/keyboard-lstm"))
val copyModel = tasks.register<CopyModelTask>("copyModel") {
    description = "Copies the model of -Pedgelm.artifact=FOLDER into the assets."
    val isFile = artifact.extension == "tflite"
    model = if (isFile) artifact else artifact.resolve("model.tflite")
    modelName = if (isFile) artifact.nameWithoutExtension else artifact.name
    golden = rootProject.file("../tests/golden/engine.json")
}

androidComponents {
    onVariants { variant ->
        variant.sources.assets?.addGeneratedSourceDirectory(copyModel, CopyModelTask::assets)
    }
}

dependencies {
    implementation(project(":core"))
    implementation(libs.litert)
    testImplementation(libs.junit)
}
